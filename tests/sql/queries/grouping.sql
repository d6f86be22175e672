-- count_all
select count(*) as n from employees;
-- aggregates_of_nothing
select count(*) as n, count(id) as m, sum(salary) as s, max(id) as x from employees where id < 0;
-- groups_of_nothing
select dept_id, count(*) as n from employees where id < 0 group by dept_id;
-- group_by_null_key
select dept_id, count(*) as n, sum(salary) as total, min(salary) as lo, max(salary) as hi, avg(salary) as mean from employees group by dept_id;
-- group_by_two
select region, product, sum(quantity) as q from sales group by region, product;
-- group_by_expression
select id % 4 as k, count(*) as n from sales group by id % 4;
-- group_by_position
select product, count(*) as n from sales group by 1 order by 1;
-- group_by_alias
select upper(product) as p, max(amount) as m from sales group by p;
-- group_by_all
select region, product, count(*) as n from sales group by all;
-- having
select product, sum(amount) as total from sales group by product having sum(amount) > 5000;
-- having_count
select emp_id, count(*) as n from sales group by emp_id having count(*) > 12 order by n desc, emp_id;
-- having_without_group
select sum(amount) as s from sales having count(*) > 10;
-- count_distinct
select product, count(distinct emp_id) as people from sales group by product;
-- count_distinct_and_others
select product, count(distinct emp_id) as people, count(distinct region) as regions, sum(amount) as total from sales group by product;
-- sum_distinct
select sum(distinct quantity) as s, count(distinct quantity) as n from sales;
-- filter_clause
select product, count(*) filter (where region = 'north') as north, sum(amount) filter (where quantity > 5) as big from sales group by product;
-- filter_and_distinct
select region, count(distinct product) filter (where quantity > 5) as products from sales group by region;
-- statistics
select product, round(stddev(amount), 6) as sd, round(var_pop(amount), 6) as v from sales group by product;
-- correlation
select round(corr(amount, quantity), 9) as c, round(covar_samp(amount, quantity), 6) as v from sales;
-- median
select product, median(amount) as m from sales group by product;
-- bool_aggregates
select product, bool_and(quantity > 0) as every_one, bool_or(quantity > 9) as some from sales group by product;
-- bit_aggregates
select bit_and(quantity) as a, bit_or(quantity) as o, bit_xor(quantity) as x from sales;
-- string_agg
select dept_id, string_agg(name, ',' order by id) as names from employees group by dept_id;
-- ordered_first
--duckdb select product, first(id order by amount desc, id) as best from sales group by product
select product, first_value(id order by amount desc, id) as best from sales group by product;
-- rollup
select region, product, sum(quantity) as q from sales group by rollup (region, product);
-- cube
select region, product, count(*) as n from sales group by cube (region, product);
-- grouping_sets
select region, product, sum(quantity) as q from sales group by grouping sets ((region), (product), ());
-- grouping_sets_overlap
select region, product, sum(quantity) as q from sales group by grouping sets ((region, product), (region), (region));
-- grouping_function
select region, product, grouping(region) as gr, grouping(product) as gp, sum(quantity) as q from sales group by rollup (region, product);
-- rollup_partial
select region, product, quantity, count(*) as n from sales group by region, rollup (product, quantity);
-- rollup_having
select region, count(*) as n from sales group by rollup (region) having count(*) > 50 order by n, region;
-- rollup_distinct
select region, count(distinct product) as n from sales group by rollup (region);
-- rollup_empty
select region, count(*) as n from sales where id < 0 group by rollup (region);
-- expression_over_aggregates
select product, sum(amount) / sum(quantity) as price, max(amount) - min(amount) as span from sales group by product;
-- aggregate_of_case
select sum(case when region is null then 1 else 0 end) as nulls, sum(case when region is null then 0 else 1 end) as others from sales;
-- min_max_text_and_dates
select min(name) as a, max(name) as z, min(hired) as first, max(hired) as last from employees;
-- sum_of_sums
select sum(total) as s, max(n) as m from (select product, sum(amount) as total, count(*) as n from sales group by product) x;
-- decimal_sums
select product, sum(cast(amount as decimal(12, 2))) as total, avg(quantity) as mean from sales group by product;
-- group_by_date
select extract(year from sold) as y, extract(month from sold) as m, sum(amount) as total from sales group by extract(year from sold), extract(month from sold) order by y, m;
-- order_by_aggregate
select product from sales group by product order by sum(amount) desc;
-- order_by_count_limit
select emp_id, count(*) as n from sales group by emp_id order by count(*) desc, emp_id limit 3;
-- group_by_boolean
select salary > 3000 as rich, count(*) as n from employees group by salary > 3000;
-- same_name_keys
select e.id % 2 as k, d.id as id, count(*) as n from employees e join departments d on e.dept_id = d.id group by e.id % 2, d.id;
-- group_by_same_named_columns
select e.name, d.name as dept, count(*) as n from employees e join departments d on e.dept_id = d.id group by e.name, d.name;
-- nth_value_ordered
--duckdb select product, list_extract(list(id order by amount desc, id), 2), list_extract(list(region order by id), 3) from sales group by product
select product, nth_value(id, 2 order by amount desc, id) as second, nth_value(region, 3 order by id) as third from sales group by product;
-- nth_value_from_the_end
--duckdb select product, list_extract(list(id order by id), -2) from sales group by product
select product, nth_value(id, -2 order by id) as last_but_one from sales group by product;
-- nth_value_of_all
--duckdb select list_extract(list(id order by amount, id), 7), list_extract(list(id order by amount, id), 7000) from sales
select nth_value(id, 7 order by amount, id) as seventh, nth_value(id, 7000 order by amount, id) as none from sales;
-- ordered_aggregates_beside
--duckdb select product, first(id order by amount desc, id) as best, last(id order by id) as last, count(*) as n, sum(quantity) as q, median(amount) as m from sales group by product
select product, first_value(id order by amount desc, id) as best, last_value(id order by id) as last, count(*) as n, sum(quantity) as q, median(amount) as m from sales group by product;
