-- all_columns
select * from departments;
-- arithmetic
select id, salary * 12 as yearly, id % 7 as rest, -id as minus, (id + 1) * 2 as twice from employees;
-- integer_division
select id, id / 3 as third from departments where id is not null and 1 = 2;
-- filter_and
select id, name from employees where salary > 3000 and dept_id = 2;
-- filter_or_null
select id from employees where dept_id is null or salary is null;
-- three_valued_logic
select a, b, a > b as gt, a = b as eq, a > b or a is null as either, not (a > b) as le from pairs;
-- is_distinct_from
select a, b from pairs where a is distinct from b;
-- is_not_distinct_from
select a, b from pairs where a is not distinct from b;
-- between_and_in
select id from employees where salary between 2000 and 4000 and dept_id in (1, 3, 5);
-- not_in_list
select id from employees where dept_id not in (1, 2);
-- like
select name from employees where name like '%a_' or name like 'E%';
-- ilike
select name from employees where name ilike 'e%' and name not like '%1%';
-- case_searched
select id, case when salary is null then 'none' when salary < 3000 then 'low' when salary < 5000 then 'mid' else 'high' end as band from employees;
-- case_simple
select id, case dept_id when 1 then 'one' when 2 then 'two' end as word from employees;
-- coalesce_nullif
select id, coalesce(dept_id, -1) as dept, nullif(dept_id, 2) as without_two from employees;
-- cast_numbers
--duckdb select cast(trunc(salary) as bigint) as whole, cast(id as double) / 4 as quarter, cast(id as varchar) || '!' as text from employees where salary is not null
select cast(salary as bigint) as whole, cast(id as double) / 4 as quarter, cast(id as varchar) || '!' as text from employees where salary is not null;
-- cast_text
select cast('2024-02-29' as date) as leap, cast('12.50' as decimal(8, 2)) as price, cast('42' as int) as answer;
-- text_functions
select name, upper(name) as u, lower(name) as l, length(name) as n, substring(name, 2, 3) as s, trim('  ' || name || ' ') as t, replace(name, 'a', '4') as r, position('a' in name) as p from employees;
-- text_padding
select lpad(name, 10, '.') as l, rpad(name, 10, '.') as r, left(name, 2) as f, right(name, 2) as b, reverse(name) as v, repeat('x', 3) as x from employees;
-- text_parts
select split_part(name, '_', 2) as part, starts_with(name, 'emp_1') as begins, concat(name, '-', id) as c, ascii(name) as a from employees;
-- math
select id, abs(id - 20) as a, round(salary / 7, 2) as r, floor(salary / 7) as f, ceil(salary / 7) as c, sqrt(id) as s, power(id, 2) as p from employees;
-- greatest_least
select greatest(id, dept_id) as g, least(id, dept_id) as l from employees where dept_id is not null;
-- date_parts
select id, extract(year from hired) as y, extract(month from hired) as m, extract(day from hired) as d, date_part('quarter', hired) as q from employees;
-- date_trunc
select date_trunc('month', sold) as month, count(*) as n from sales group by date_trunc('month', sold);
-- date_compare
select id from employees where hired >= date '2021-06-01' and hired < date '2022-01-01';
-- date_interval
select id from employees where hired >= date '2021-06-01' - interval '3' month;
-- order_by_two
select id, dept_id, salary from employees order by dept_id desc, salary, id;
-- order_by_nulls_first
select id, salary from employees order by salary nulls first, id;
-- order_by_nulls_last
select id, salary from employees order by salary desc nulls last, id;
-- order_by_position
select dept_id, id from employees order by 1, 2;
-- order_by_expression
select id, name from employees order by id % 5, id desc;
-- order_by_hidden_column
select name from employees order by hired, id;
-- order_by_text
select name from employees order by name;
-- limit
select id from employees order by id limit 5;
-- limit_offset
select id from employees order by id limit 5 offset 7;
-- offset_only
select id from employees order by id offset 30;
-- limit_zero
select id from employees limit 0;
-- top_of_many
select id, amount from sales order by amount desc, id limit 10;
-- distinct
select distinct dept_id from employees;
-- distinct_two
select distinct region, product from sales;
-- distinct_order
select distinct dept_id from employees order by dept_id nulls first;
-- distinct_on
select distinct on (dept_id) dept_id, id, salary from employees order by dept_id, id;
-- alias_quoted
select id as "The Id", name "Name" from departments where "id" < 3;
-- boolean_columns
select id, salary > 3000 as rich, not (salary > 3000) as poor from employees where (salary > 3000) is not true;
-- no_table
select 1 + 2 as three, 'x' || 'y' as xy, null as nothing;
-- nested_case
select sum(case when case when dept_id = 1 then 1 else 0 end = 1 then salary end) as s from employees;
-- string_order_limit
select name from employees where name > 'emp_2' order by name desc limit 3;
-- exclude_column
select * exclude (budget) from departments;
-- in_expression
select id from sales where quantity + 1 in (2, 3) and id < 60;
-- long_or
select count(*) as n from sales where product = 'apple' or product = 'pear' or product = 'fig' or quantity = 3;
-- empty_input
select id, name from employees where id < 0 order by id;
-- decimals
select cast(amount as decimal(12, 2)) as d, cast(amount as decimal(12, 2)) * 2 as twice from sales where id < 20;
