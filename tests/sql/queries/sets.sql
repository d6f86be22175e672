-- union_all
select id from employees where id < 3 union all select id from departments;
-- union
select dept_id from employees union select id from departments;
-- union_types
select id from departments union all select salary from employees where salary is not null;
-- union_three
select 1 as n union all select 2 union all select 2 union select 3;
-- intersect
select dept_id from employees intersect select id from departments;
-- intersect_nulls
select a from pairs intersect select a from others;
-- except
select id from departments except select dept_id from employees;
-- except_nulls
select a from pairs except select a from others;
-- except_all
select a from pairs except all select a from others;
-- intersect_all
select a from pairs intersect all select a from others;
-- two_column_except
select a, b from pairs except select a, c from others;
-- union_order_limit
select id, 'e' as kind from employees union all select id, 'd' from departments order by id, kind limit 8;
-- union_then_group
select kind, count(*) as n from (select 'e' as kind, id from employees union all select 'd', id from departments) x group by kind;
-- union_in_subquery
select id from employees where id in (select id from departments union select 17);
-- nested_sets
(select id from departments except select 2) intersect (select 1 union select 3 union select 2);
-- union_by_name
select id, name from departments union all by name select name, id from employees where id < 3;
-- values
values (1, 'a'), (2, null), (3, 'c');
-- values_in_from
select x, upper(y) as y from (values (1, 'a'), (2, 'b')) as t(x, y) where x > 1;
-- values_join
select d.id, t.y from departments d join (values (1, 'one'), (2, 'two')) as t(x, y) on d.id = t.x;
-- union_of_aggregates
select 'all' as what, count(*) as n from sales union all select product, count(*) from sales group by product;
-- distinct_union
select distinct kind from (select 'a' as kind union all select 'a' union all select 'b') x;
-- union_of_joins
select e.id from employees e join departments d on e.dept_id = d.id union select emp_id from sales where quantity = 1;
-- array_functions
select array_length([1, 2, 3]) as n, [4, 5, 6][2] as second, array_to_string(['a', 'b'], '-') as text;
